-- Windows: how many bids somebody makes in every 10 seconds. The benchmark has the time of processing here; this is
-- event time, so that the result is the same in every run.
CREATE STREAM q12 AS
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TUMBLE(bid, date_time, INTERVAL '10' SECOND)
GROUP BY bidder, window_start, window_end;
