import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;

/**
 * The queries in Kafka Streams, exactly once: {@code Streams QUERY}. It warms up for a while with a topology of its own, says
 * {@code begin}, and goes on until it is killed.
 *
 * <p>Where there is a choice it is the one that takes less CPU: stores are in memory (with changelogs on Kafka), rows of windows
 * are emitted once, when they are final, what can be reduced before it moves to another partition is, and events have the keys
 * that queries group by.
 */
class Streams {
    static final String BROKERS = System.getenv("KAFKA_BROKERS");
    static final Duration WARM_UP = Duration.ofSeconds(Long.parseLong(System.getenv("WARM_UP")));
    static final Duration LATE = Duration.ofSeconds(4);
    static final Duration TEN = Duration.ofSeconds(10);
    static final Duration TWO = Duration.ofSeconds(2);

    interface Timed {
        String date_time();
    }

    // Input. Fields that no query reads are passed over.
    record Bid(long auction, long bidder, long price, String date_time, String extra) implements Timed {}
    record Person(long id, String name, String date_time) implements Timed {}
    record Auction(long seller, String date_time) implements Timed {}
    record Click(String user_id, String page_url) {}

    // Results.
    record Price(long auction, long price) {}
    record Hot(long auction, long num, String window_end) {}
    record Newcomer(long id, String name, String window_start, String window_end) {}
    record PageClicks(String user_id, String page_url, long click_count) {}

    // State, and what moves between partitions.
    record Count(long auction, long num) {}
    record Counts(List<Count> most) {
        Counts with(Count count) {
            if (most.isEmpty() || count.num > most.get(0).num) {
                return new Counts(List.of(count));
            }
            return count.num < most.get(0).num ? this : new Counts(joined(most, List.of(count)));
        }
    }
    record Bids(List<Bid> highest) {
        Bids with(Bids others) {
            if (highest.isEmpty() || others.highest.get(0).price > highest.get(0).price) {
                return others;
            }
            return others.highest.get(0).price < highest.get(0).price ? this : new Bids(joined(highest, others.highest));
        }
    }
    record Seen(Person person, boolean sells) {}

    public static void main(String[] arguments) throws Exception {
        String query = arguments[0], results = System.getenv("RESULTS");
        KafkaStreams warm = start(query, results + "-warm");
        Thread.sleep(WARM_UP.toMillis());
        warm.close();
        KafkaStreams streams = start(query, results);
        System.out.println("begin");
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    }

    /** Runs the query until the answer is closed. It returns when events come. */
    static KafkaStreams start(String query, String results) throws IOException, InterruptedException {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, results);
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, BROKERS);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("beside-streams").toString());
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        // As often as Flink; the default is every 100 ms.
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        properties.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 256 << 20);
        properties.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class);
        properties.put("auto.offset.reset", "earliest");
        KafkaStreams streams = new KafkaStreams(topology(query, results).build(properties), properties);
        streams.start();
        while (streams.state() != KafkaStreams.State.RUNNING) {
            Thread.sleep(10);
        }
        return streams;
    }

    static StreamsBuilder topology(String query, String results) {
        StreamsBuilder builder = new StreamsBuilder();
        // Without windows the time of an event is a text like any other.
        KStream<?, ?> rows = switch (query) {
            case "q0" -> builder.stream("beside-bid", Consumed.with(Serdes.String(), json(Bid.class)));
            case "q2" -> builder.stream("beside-bid", Consumed.with(Serdes.String(), json(Bid.class)))
                .filter((key, bid) -> bid.auction % 123 == 0)
                .mapValues(bid -> new Price(bid.auction, bid.price));
            case "q5" -> hotItems(timed(builder, "beside-bid", Bid.class));
            case "q7" -> highestBids(timed(builder, "beside-bid", Bid.class));
            case "q8" -> newcomers(timed(builder, "beside-person", Person.class), timed(builder, "beside-auction", Auction.class));
            case "clickstream" -> pageClicks(builder.stream("beside-click", Consumed.with(Serdes.String(), json(Click.class))));
            default -> throw new IllegalArgumentException("no query " + query);
        };
        // Of a count that changes the last one is the result: its records have the key.
        Serde<Object> serde = json(Object.class);
        rows.map((key, row) -> new KeyValue<>(query.equals("clickstream") ? (Object) key : null, (Object) row))
            .to(results, Produced.with(serde, serde));
        return builder;
    }

    static KStream<?, Hot> hotItems(KStream<String, Bid> bids) {
        return bids.groupByKey()
            .windowedBy(TimeWindows.ofSizeAndGrace(TEN, LATE).advanceBy(TWO))
            .emitStrategy(EmitStrategy.onWindowClose())
            .count(Materialized.with(Serdes.String(), Serdes.Long()))
            .toStream()
            .process(() -> new Ended<String, Long, Count>() {
                Count row(Windowed<String> window, Long count) {
                    return new Count(Long.parseLong(window.key()), count);
                }
            })
            .groupByKey(Grouped.with(Serdes.Long(), json(Count.class)))
            .windowedBy(TimeWindows.ofSizeWithNoGrace(TWO))
            .emitStrategy(EmitStrategy.onWindowClose())
            .aggregate(() -> new Counts(List.of()), (end, count, counts) -> counts.with(count), Materialized.with(Serdes.Long(), json(Counts.class)))
            .toStream()
            .flatMapValues((window, counts) -> counts.most.stream().map(count -> new Hot(count.auction, count.num, text(window.key()))).toList());
    }

    static KStream<?, Bid> highestBids(KStream<String, Bid> bids) {
        return bids.groupByKey()
            .windowedBy(TimeWindows.ofSizeAndGrace(TEN, LATE))
            .emitStrategy(EmitStrategy.onWindowClose())
            .aggregate(() -> new Bids(List.of()), (auction, bid, highest) -> highest.with(new Bids(List.of(bid))), Materialized.with(Serdes.String(), json(Bids.class)))
            .toStream()
            .process(() -> new Ended<String, Bids, Bids>() {
                Bids row(Windowed<String> window, Bids highest) {
                    return highest;
                }
            })
            .groupByKey(Grouped.with(Serdes.Long(), json(Bids.class)))
            .windowedBy(TimeWindows.ofSizeWithNoGrace(TEN))
            .emitStrategy(EmitStrategy.onWindowClose())
            .aggregate(() -> new Bids(List.of()), (end, of, highest) -> highest.with(of), Materialized.with(Serdes.Long(), json(Bids.class)))
            .toStream()
            .flatMapValues(Bids::highest);
    }

    static KStream<?, Newcomer> newcomers(KStream<String, Person> persons, KStream<String, Auction> auctions) {
        return persons.groupByKey()
            .<Seen>cogroup((id, person, seen) -> new Seen(person, seen.sells))
            .cogroup(auctions.groupByKey(), (seller, auction, seen) -> new Seen(seen.person, true))
            .windowedBy(TimeWindows.ofSizeAndGrace(TEN, LATE))
            .aggregate(() -> new Seen(null, false), Materialized.with(Serdes.String(), json(Seen.class)))
            .suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()))
            .toStream()
            .filter((window, seen) -> seen.person != null && seen.sells)
            .mapValues((window, seen) -> new Newcomer(seen.person.id, seen.person.name, text(window.window().start()), text(window.window().end())));
    }

    static KStream<?, PageClicks> pageClicks(KStream<String, Click> clicks) {
        return clicks.groupBy((user, click) -> click, Grouped.with(json(Click.class), json(Click.class)))
            .count(Materialized.with(json(Click.class), Serdes.Long()))
            .toStream()
            .map((click, count) -> new KeyValue<>(click, new PageClicks(click.user_id, click.page_url, count)));
    }

    /** What a window has come to, at its end: with that as its key, and within it. */
    abstract static class Ended<K, V, R> extends ContextualProcessor<Windowed<K>, V, Long, R> {
        abstract R row(Windowed<K> window, V value);

        @Override
        public void process(Record<Windowed<K>, V> record) {
            long end = record.key().window().end();
            context().forward(record.withKey(end).withValue(row(record.key(), record.value())).withTimestamp(end - 1));
        }
    }

    static <T extends Timed> KStream<String, T> timed(StreamsBuilder builder, String topic, Class<T> type) {
        TimestampExtractor time = (record, before) -> Instant.parse(type.cast(record.value()).date_time()).toEpochMilli();
        return builder.stream(topic, Consumed.with(Serdes.String(), json(type)).withTimestampExtractor(time));
    }

    static String text(long millis) {
        return Instant.ofEpochMilli(millis).toString();
    }

    static <T> List<T> joined(List<T> some, List<T> others) {
        List<T> all = new ArrayList<>(some);
        all.addAll(others);
        return all;
    }

    static <T> Serde<T> json(Class<T> type) {
        ObjectMapper mapper = new ObjectMapper().configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);
        ObjectReader reader = mapper.readerFor(type);
        return Serdes.serdeFrom(
            (topic, value) -> {
                try {
                    return value == null ? null : mapper.writeValueAsBytes(value);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            },
            (topic, bytes) -> {
                try {
                    return bytes == null ? null : reader.readValue(bytes);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            });
    }
}
