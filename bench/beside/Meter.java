import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Runs a program and measures it from outside, in the same way whichever it is.
 *
 * <pre>
 * Meter fill TOPIC,… COMMAND…          until nothing more comes into the topics
 * Meter run SYSTEM QUERY EVENTS COMMAND…  prints what was measured, as a line of JSON; results are to go to the topic $RESULTS
 * Meter table FILE                     of such lines
 * </pre>
 *
 * Time begins when the program says {@code begin} on its standard output, and ends when the last result is committed. CPU is
 * what the kernel says of the process, user and system, from {@code begin} until it has read everything and nothing has come for
 * {@link #QUIET}, so that what a program puts off counts as well.
 */
class Meter {
    static final Duration QUIET = Duration.ofSeconds(5);
    static final Duration LOOK = Duration.ofMillis(50);
    static final Duration PATIENCE = Duration.ofMinutes(10);
    /** Rows of windows that end within so much of the last event aren't compared: some close them at the end of the input, and some wait for more. */
    static final long OPEN_MS = 30_000;

    /** Event time as headwater's source nexmark has it. */
    static final long START_MS = Instant.parse("2015-07-15T00:00:00Z").toEpochMilli();
    static final long EVENTS_PER_SECOND = 10_000;

    static final ObjectMapper JSON = new ObjectMapper();
    static final String BROKERS = System.getenv("KAFKA_BROKERS");

    /** What is compared of a result: its columns, which of them are times, and by which it is said to be of the end of the input. */
    record Rows(List<String> columns, List<String> times, Optional<String> until, int key) {
        static Rows of(String query) {
            return switch (query) {
                case "q0" -> new Rows(List.of("auction", "bidder", "price", "date_time", "extra"), List.of("date_time"), Optional.empty(), 0);
                case "q2" -> new Rows(List.of("auction", "price"), List.of(), Optional.empty(), 0);
                case "q5" -> new Rows(List.of("auction", "num", "window_end"), List.of("window_end"), Optional.of("window_end"), 0);
                case "q7" -> new Rows(List.of("auction", "price", "bidder", "date_time", "extra"), List.of("date_time"), Optional.of("date_time"), 0);
                case "q8" -> new Rows(List.of("id", "name", "window_start", "window_end"), List.of("window_start", "window_end"), Optional.of("window_end"), 0);
                // Of a count that changes the last one is compared.
                case "clickstream" -> new Rows(List.of("user_id", "page_url", "click_count"), List.of(), Optional.empty(), 2);
                default -> throw new IllegalArgumentException("no query " + query);
            };
        }
    }

    public static void main(String[] arguments) throws Exception {
        List<String> rest = Arrays.asList(arguments);
        switch (arguments[0]) {
            case "fill" -> fill(List.of(arguments[1].split(",")), rest.subList(2, rest.size()));
            case "run" -> run(arguments[1], arguments[2], Long.parseLong(arguments[3]), rest.subList(4, rest.size()));
            case "table" -> table(Path.of(arguments[1]));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    static void fill(List<String> topics, List<String> command) throws Exception {
        try (Admin admin = admin()) {
            if (admin.listTopics().names().get().containsAll(topics)) {
                System.err.println("they are there already, and taken as they are");
                return;
            }
        }
        Process process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT)
            .redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
        try (Admin admin = admin()) {
            long end = 0;
            for (Instant last = Instant.now(); end == 0 || since(last).compareTo(QUIET) < 0; Thread.sleep(LOOK.toMillis())) {
                check(process, last);
                long found = 0;
                for (String topic : topics) {
                    found += end(admin, topic).orElse(0L);
                }
                if (found != end) {
                    end = found;
                    last = Instant.now();
                }
            }
        } finally {
            end(process);
        }
    }

    static void run(String system, String query, long events, List<String> command) throws Exception {
        String topic = System.getenv("RESULTS");
        try (Admin admin = admin()) {
            // Results of the run, and of a run before it that warms up.
            List<NewTopic> topics = List.of(new NewTopic(topic, 1, (short) 1), new NewTopic(topic + "-warm", 1, (short) 1));
            admin.createTopics(topics).all().get();
            Process process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            try {
                Queue<String> said = new ConcurrentLinkedQueue<>();
                Thread listener = new Thread(() -> process.inputReader().lines().forEach(said::add));
                listener.setDaemon(true);
                listener.start();
                while (!system.equals("headwater") && !said.contains("begin")) {
                    check(process, Instant.now());
                    Thread.sleep(LOOK.toMillis());
                }

                Instant begun = Instant.now();
                Duration cpu = system.equals("headwater") ? Duration.ZERO : cpu(process);
                Instant last = begun, looked = begun;
                long end = 0;
                // Windows may be far apart: that nothing comes doesn't mean that nothing will.
                for (boolean ended = false; !ended; Thread.sleep(LOOK.toMillis())) {
                    check(process, last);
                    long found = end(admin, topic).orElse(0L);
                    if (found != end) {
                        end = found;
                        last = looked = Instant.now();
                    } else if (since(looked).compareTo(QUIET) >= 0) {
                        ended = end > 0 && hasReadAll(system, admin, topic, said);
                        looked = Instant.now();
                    }
                }
                cpu = cpu(process).minus(cpu);
                double seconds = Duration.between(begun, last).toMillis() / 1000.0;
                Map<String, Object> measured = new LinkedHashMap<>();
                measured.put("system", system);
                measured.put("query", query);
                measured.put("events", events);
                measured.put("seconds", seconds);
                measured.put("cpu_seconds", cpu.toMillis() / 1000.0);
                measured.put("events_per_second", Math.round(events / seconds));
                measured.put("events_per_cpu_second", Math.round(events * 1000.0 / cpu.toMillis()));
                measured.putAll(results(topic, query, events));
                System.out.println(JSON.writeValueAsString(measured));
            } finally {
                end(process);
                forget(admin, topic);
            }
        }
    }

    /** Whether the program says that it has nothing more to do. */
    static boolean hasReadAll(String system, Admin admin, String topic, Queue<String> said) throws Exception {
        return switch (system) {
            case "headwater" -> {
                String address = said.stream().filter(line -> line.startsWith("HTTP ")).findFirst().orElseThrow().substring(5).trim();
                var request = HttpRequest.newBuilder(URI.create(address + "/metrics")).build();
                String metrics = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body();
                yield metrics.lines().filter(line -> line.matches("headwater_(task|sink)_lag_rows\\{.*")).allMatch(line -> line.endsWith(" 0"));
            }
            case "streams" -> {
                // What it reads of others, and what it moves between its own tasks. A transaction leaves a mark behind the last record.
                boolean all = true;
                var offsets = admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata().get();
                for (var offset : offsets.entrySet()) {
                    all &= offset.getValue().offset() >= end(admin, offset.getKey().topic()).orElse(0L) - 1;
                }
                yield all;
            }
            default -> said.contains("end");
        };
    }

    /** How many rows there are, and a sum of their hashes, which doesn't depend on their order. */
    static Map<String, Object> results(String topic, String query, long events) throws IOException {
        Rows rows = Rows.of(query);
        // NEXMark's events of all three streams, of which these are so many.
        long sequence = query.equals("q8") ? events * 50 / 4 : events * 50 / 46;
        long until = START_MS + sequence * 1000 / EVENTS_PER_SECOND - OPEN_MS;
        Map<String, Long> newest = new HashMap<>();
        long written = 0, compared = 0, sum = 0;
        Properties properties = new Properties();
        properties.put("bootstrap.servers", BROKERS);
        properties.put("isolation.level", "read_committed");
        properties.put("auto.offset.reset", "earliest");
        try (var consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            TopicPartition partition = new TopicPartition(topic, 0);
            consumer.assign(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            while (consumer.position(partition) < end) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    written++;
                    if (record.value() == null) {
                        JsonNode key = JSON.readTree(record.key());
                        newest.remove(String.join("\t", rows.columns.stream().limit(rows.key).map(name -> key.get(name).asText()).toList()));
                        continue;
                    }
                    JsonNode row = JSON.readTree(record.value());
                    if (rows.until.isPresent() && millis(row.get(rows.until.get())) >= until) {
                        continue;
                    }
                    List<String> texts = rows.columns.stream()
                        .map(name -> rows.times.contains(name) ? Long.toString(millis(row.get(name))) : row.get(name).asText()).toList();
                    if (rows.key > 0) {
                        newest.put(String.join("\t", texts.subList(0, rows.key)), hash(texts));
                    } else {
                        compared++;
                        sum += hash(texts);
                    }
                }
            }
        }
        for (long hash : newest.values()) {
            compared++;
            sum += hash;
        }
        return Map.of("rows_written", written, "rows", compared, "digest", Long.toHexString(sum));
    }

    /** To the millisecond, which is what Flink has of a time that windows are made of; the bounds of its windows come without a zone. */
    static long millis(JsonNode time) {
        String text = time.asText();
        return Instant.parse(text.endsWith("Z") ? text : text + "Z").toEpochMilli();
    }

    /** FNV-1a, of 64 bits. */
    static long hash(List<String> texts) {
        long hash = 0xcbf29ce484222325L;
        for (byte each : String.join("\t", texts).getBytes(StandardCharsets.UTF_8)) {
            hash = (hash ^ (each & 0xff)) * 0x100000001b3L;
        }
        return hash;
    }

    static void table(Path file) throws IOException {
        Map<String, Map<String, JsonNode>> queries = new LinkedHashMap<>();
        for (String line : Files.readAllLines(file)) {
            JsonNode run = JSON.readTree(line);
            queries.computeIfAbsent(run.get("query").asText(), query -> new LinkedHashMap<>()).put(run.get("system").asText(), run);
        }
        System.out.println("| query | events | system | events/s | events per CPU second | Headwater makes | rows written | results |");
        System.out.println("|---|---|---|---|---|---|---|---|");
        queries.forEach((query, systems) -> {
            JsonNode ours = systems.get("headwater");
            systems.forEach((system, run) -> {
                String ratio = "", agree = "";
                if (ours != null && run != ours) {
                    ratio = "%.1f ×".formatted(ours.get("events_per_cpu_second").asDouble() / run.get("events_per_cpu_second").asDouble());
                    agree = ours.get("digest").equals(run.get("digest")) ? ", the same" : ", OTHERS";
                }
                System.out.printf("| %s | %,d | %s | %,d | %,d | %s | %,d | %,d%s |%n", query, run.get("events").asLong(), system,
                    run.get("events_per_second").asLong(), run.get("events_per_cpu_second").asLong(), ratio,
                    run.get("rows_written").asLong(), run.get("rows").asLong(), agree);
            });
        });
    }

    static Admin admin() {
        return Admin.create(Map.of("bootstrap.servers", BROKERS));
    }

    /** Where what is committed of the topic ends; nothing before there is such a topic. */
    static Optional<Long> end(Admin admin, String topic) throws InterruptedException {
        TopicPartition partition = new TopicPartition(topic, 0);
        try {
            var found = admin.listOffsets(Map.of(partition, OffsetSpec.latest()), new ListOffsetsOptions(IsolationLevel.READ_COMMITTED));
            return Optional.of(found.partitionResult(partition).get().offset());
        } catch (ExecutionException error) {
            return Optional.empty();
        }
    }

    /** Deletes all topics that a run has made. */
    static void forget(Admin admin, String name) throws Exception {
        Collection<String> topics = new ArrayList<>(admin.listTopics().names().get());
        topics.removeIf(topic -> !topic.startsWith(name));
        admin.deleteTopics(topics).all().get();
        while (admin.listTopics().names().get().stream().anyMatch(topic -> topic.startsWith(name))) {
            Thread.sleep(LOOK.toMillis());
        }
    }

    static Duration cpu(Process process) {
        return process.info().totalCpuDuration().orElseThrow();
    }

    static Duration since(Instant time) {
        return Duration.between(time, Instant.now());
    }

    static void check(Process process, Instant last) throws IOException {
        if (!process.isAlive()) {
            throw new IOException("the process has ended, with status " + process.exitValue());
        }
        if (since(last).compareTo(PATIENCE) > 0) {
            throw new IOException("nothing has come for " + PATIENCE);
        }
    }

    static void end(Process process) throws InterruptedException {
        process.destroy();
        if (!process.waitFor(30, TimeUnit.SECONDS)) {
            process.destroyForcibly().waitFor();
        }
    }
}
