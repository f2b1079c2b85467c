CREATE MATERIALIZED VIEW v AS
  SELECT pge_url, count(*) AS n
  FROM clicks GROUP BY pge_url;