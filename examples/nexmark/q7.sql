-- Highest bid: the highest bids of every 10 seconds.
CREATE STREAM q7 AS
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM TUMBLE(bid, date_time, INTERVAL '10' SECOND) AS b
JOIN (
  SELECT max(price) AS maxprice, window_start, window_end
  FROM TUMBLE(bid, date_time, INTERVAL '10' SECOND)
  GROUP BY window_start, window_end
) AS highest
ON b.price = highest.maxprice AND b.window_start = highest.window_start AND b.window_end = highest.window_end;
