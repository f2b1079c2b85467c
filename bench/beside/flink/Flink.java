import java.nio.file.Files;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/**
 * The queries in Flink SQL, exactly once, on a cluster within this process: {@code Flink QUERY}. The query is run twice, each
 * time over all events; {@code begin} is said in between, and {@code end} after the second.
 *
 * <p>The source is bounded, so that windows are closed at its end and the job finishes with what is open committed.
 */
class Flink {
    static final String BROKERS = System.getenv("KAFKA_BROKERS");

    public static void main(String[] arguments) throws Exception {
        String query = arguments[0], results = System.getenv("RESULTS");
        start(query, results + "-warm").await();
        TableResult running = start(query, results);
        System.out.println("begin");
        running.await();
        System.out.println("end");
        // How much CPU it took is asked from outside.
        Thread.sleep(Long.MAX_VALUE);
    }

    /** Runs the query over all that is there. It returns when the job runs. */
    static TableResult start(String query, String results) throws Exception {
        Configuration configuration = new Configuration();
        configuration.setString("parallelism.default", "1");
        configuration.setString("execution.checkpointing.interval", "1 s");
        configuration.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        // State is on the heap, checkpoints are on disk.
        configuration.setString("state.backend.type", "hashmap");
        configuration.setString("execution.checkpointing.storage", "filesystem");
        configuration.setString("execution.checkpointing.dir", Files.createTempDirectory("beside-flink").toUri().toString());
        // Rows aren't copied between operators of one task.
        configuration.setString("pipeline.object-reuse", "true");
        configuration.setString("table.local-time-zone", "UTC");
        // A count that changes is written once for what comes within so long, as the others do by themselves.
        configuration.setString("table.exec.mini-batch.enabled", "true");
        configuration.setString("table.exec.mini-batch.allow-latency", "1 s");
        configuration.setString("table.exec.mini-batch.size", "50000");
        TableEnvironment tables = TableEnvironment.create(EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(configuration).build());
        tables.executeSql(input("bid", "auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP_LTZ(3), extra STRING", "date_time"));
        tables.executeSql(input("person", "id BIGINT, name STRING, date_time TIMESTAMP_LTZ(3)", "date_time"));
        tables.executeSql(input("auction", "seller BIGINT, date_time TIMESTAMP_LTZ(3)", "date_time"));
        tables.executeSql(input("click", "user_id STRING, page_url STRING", null));
        tables.executeSql(output(query, results));
        TableResult running = tables.executeSql("INSERT INTO results " + sql(query));
        JobClient job = running.getJobClient().orElseThrow();
        JobStatus status = job.getJobStatus().get();
        // Where there is little to read it may be over by now.
        while (status != JobStatus.RUNNING && !status.isGloballyTerminalState()) {
            Thread.sleep(10);
            status = job.getJobStatus().get();
        }
        return running;
    }

    static String sql(String query) {
        return switch (query) {
            case "q0" -> "SELECT auction, bidder, price, date_time, extra FROM bid";
            case "q2" -> "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0";
            case "q5" -> """
                SELECT auction_bids.auction, auction_bids.num, auction_bids.window_end
                FROM (
                  SELECT auction, count(*) AS num, window_start, window_end
                  FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
                  GROUP BY auction, window_start, window_end
                ) AS auction_bids
                JOIN (
                  SELECT max(num) AS maxn, window_start, window_end
                  FROM (
                    SELECT count(*) AS num, window_start, window_end
                    FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
                    GROUP BY auction, window_start, window_end
                  )
                  GROUP BY window_start, window_end
                ) AS max_bids
                ON auction_bids.window_start = max_bids.window_start AND auction_bids.window_end = max_bids.window_end
                  AND auction_bids.num >= max_bids.maxn""";
            case "q7" -> """
                SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
                FROM (SELECT * FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)) AS b
                JOIN (
                  SELECT max(price) AS maxprice, window_start, window_end
                  FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
                  GROUP BY window_start, window_end
                ) AS highest
                ON b.price = highest.maxprice AND b.window_start = highest.window_start AND b.window_end = highest.window_end""";
            case "q8" -> """
                SELECT p.id, p.name, p.window_start, p.window_end
                FROM (
                  SELECT id, name, window_start, window_end
                  FROM TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
                  GROUP BY id, name, window_start, window_end
                ) AS p
                JOIN (
                  SELECT seller, window_start, window_end
                  FROM TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
                  GROUP BY seller, window_start, window_end
                ) AS a
                ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end""";
            case "clickstream" -> "SELECT user_id, page_url, count(*) AS click_count FROM click GROUP BY user_id, page_url";
            default -> throw new IllegalArgumentException("no query " + query);
        };
    }

    static String input(String stream, String columns, String time) {
        String watermark = time == null ? "" : ", WATERMARK FOR %1$s AS %1$s - INTERVAL '4' SECOND".formatted(time);
        return """
            CREATE TABLE %s (%s%s) WITH (
              'connector' = 'kafka', 'topic' = 'beside-%1$s', 'properties.bootstrap.servers' = '%s',
              'properties.isolation.level' = 'read_committed', 'properties.group.id' = 'beside-run-flink',
              'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
              'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'
            )""".formatted(stream, columns, watermark, BROKERS);
    }

    static String output(String query, String results) {
        String columns = switch (query) {
            case "q0" -> "auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP_LTZ(3), extra STRING";
            case "q2" -> "auction BIGINT, price BIGINT";
            case "q5" -> "auction BIGINT, num BIGINT, window_end TIMESTAMP(3)";
            case "q7" -> "auction BIGINT, price BIGINT, bidder BIGINT, date_time TIMESTAMP_LTZ(3), extra STRING";
            case "q8" -> "id BIGINT, name STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3)";
            default -> "user_id STRING, page_url STRING, click_count BIGINT, PRIMARY KEY (user_id, page_url) NOT ENFORCED";
        };
        boolean changes = query.equals("clickstream");
        String format = changes ? "'connector' = 'upsert-kafka', 'key.format' = 'json', 'value.format' = 'json'"
            : "'connector' = 'kafka', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'";
        return """
            CREATE TABLE results (%s) WITH (
              %s, 'topic' = '%s', 'properties.bootstrap.servers' = '%s',
              'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '%3$s',
              'properties.transaction.timeout.ms' = '600000'
            )""".formatted(columns, format, results, BROKERS);
    }
}
