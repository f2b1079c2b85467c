-- Log to file system: every bid with its day and minute, by which files would be told apart.
CREATE STREAM q10 AS
SELECT auction, bidder, price, date_time, extra,
       to_char(date_time, '%Y-%m-%d') AS dt, to_char(date_time, '%H:%M') AS hm
FROM bid;
