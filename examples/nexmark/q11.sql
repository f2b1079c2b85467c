-- User sessions: how many bids somebody makes until there are none for 10 seconds.
CREATE STREAM q11 AS
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM SESSION(bid PARTITION BY bidder, date_time, INTERVAL '10' SECOND)
GROUP BY bidder, window_start, window_end;
