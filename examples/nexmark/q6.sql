-- Average selling price by seller, over the last 10 closed auctions.
CREATE MATERIALIZED VIEW q6 WITH (state = 'unbounded') AS
SELECT q.id, q.seller,
       avg(q.price) OVER (PARTITION BY q.seller ORDER BY q.date_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS avg_price
FROM (
  SELECT a.id, a.seller, b.price, b.date_time,
         ROW_NUMBER() OVER (PARTITION BY a.id, a.seller ORDER BY b.price DESC, b.date_time) AS rank_number
  FROM auction AS a JOIN bid AS b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
) AS q
WHERE q.rank_number <= 1;
