-- Bounded side input join: every bid with what a table of 10,000 rows says about its auction.
CREATE STREAM side_input (key BIGINT NOT NULL, value TEXT NOT NULL) WITH (partitions = 4);

CREATE SOURCE side_input_rows INTO side_input WITH (
  connector = 'datagen', events = 10000, key.kind = 'sequence', value.kind = 'sequence', value.prefix = 'value-'
);

CREATE STREAM q13 WITH (state = 'unbounded') AS
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid AS b JOIN side_input AS s ON b.auction % 10000 = s.key;
