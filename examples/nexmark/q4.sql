-- Average price for a category: the average of the winning bids of its auctions.
CREATE MATERIALIZED VIEW q4 WITH (state = 'unbounded') AS
SELECT q.category, avg(q.final) AS final
FROM (
  SELECT max(b.price) AS final, a.category
  FROM auction AS a JOIN bid AS b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
  GROUP BY a.id, a.category
) AS q
GROUP BY q.category;
