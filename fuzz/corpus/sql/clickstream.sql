-- Web analytics: raw events kept, counts kept current, answers while events flow.

-- What the site sends. Events go in at POST /ingest; only user_id, event_type and page_url must be given.
-- An event that is sent twice with the same event_id within the hour is stored once.
CREATE STREAM clicks (
  event_id   TEXT NOT NULL DEFAULT uuid(),
  user_id    TEXT NOT NULL,
  event_type TEXT NOT NULL,
  page_url   TEXT NOT NULL,
  time_stamp TIMESTAMP NOT NULL DEFAULT now(),
  WATERMARK FOR time_stamp AS time_stamp - INTERVAL '5' SECOND
) PARTITION BY (user_id)
WITH (partitions = 4, retention = '7 days', idempotency_key = 'event_id', http.path = '/ingest');

-- How often each user did something on each page: GET /analytics/events?user_id=u1&page_url=/home
CREATE MATERIALIZED VIEW page_clicks WITH (http.path = '/analytics/events') AS
SELECT user_id, page_url, count(*) AS click_count
FROM clicks
GROUP BY user_id, page_url;

-- The pages of all users: GET /v1/views/top_pages?order=-clicks&limit=10
CREATE MATERIALIZED VIEW top_pages AS
SELECT page_url, count(*) AS clicks
FROM clicks
GROUP BY page_url;

-- Final counts per minute, each written once when its minute is over.
CREATE STREAM clicks_per_minute AS
SELECT window_start, page_url, count(*) AS clicks
FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute')
GROUP BY window_start, window_end, page_url;
