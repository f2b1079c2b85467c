-- Hot items: the auctions with the most bids in the last 10 seconds, every 2 seconds. Each hopping window is final in one
-- window of 2 seconds, and there its auctions meet the most bids that any of them has.
CREATE STREAM q5 AS
SELECT auction_bids.auction, auction_bids.num, auction_bids.window_end
FROM TUMBLE((
  SELECT auction, count(*) AS num, window_time
  FROM HOP(bid, date_time, INTERVAL '2' SECOND, INTERVAL '10' SECOND)
  GROUP BY auction, window_start, window_end, window_time
), window_time, INTERVAL '2' SECOND) AS auction_bids
JOIN (
  SELECT max(num) AS maxn, window_start, window_end
  FROM TUMBLE((
    SELECT count(*) AS num, window_time
    FROM HOP(bid, date_time, INTERVAL '2' SECOND, INTERVAL '10' SECOND)
    GROUP BY auction, window_start, window_end, window_time
  ), window_time, INTERVAL '2' SECOND)
  GROUP BY window_start, window_end
) AS max_bids
ON auction_bids.window_start = max_bids.window_start AND auction_bids.window_end = max_bids.window_end
  AND auction_bids.num >= max_bids.maxn;
