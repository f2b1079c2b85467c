-- Log to file system: every bid in a file of its day and minute, in the folder q10 of the working directory.
CREATE STREAM q10 AS
SELECT auction, bidder, price, date_time, extra,
       to_char(date_time, '%Y-%m-%d') AS dt, to_char(date_time, '%H:%M') AS hm
FROM bid;

CREATE SINK q10_files FROM q10 WITH (
  connector = 'file', path = 'q10', format = 'csv', partition_by = 'dt, hm', roll_interval = '10 seconds'
);
