-- The ten highest bids of every auction.
CREATE MATERIALIZED VIEW q19 AS
SELECT *
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC) AS rank_number FROM bid
) AS ranked
WHERE rank_number <= 10;
