-- What leaves Headwater in this form: the counts in PostgreSQL, and those that are asked for in Redis as well.

CREATE SINK warehouse FROM page_clicks WITH (
  connector = 'postgres', url = '${env:PG_URL}', table = 'page_clicks',
  cache.url = '${env:REDIS_URL}', cache.key = '{user_id}__+__{page_url}'
);

-- And back: GET /analytics/counts?user_id=u1&page_url=/home answers from Redis, or from PostgreSQL what is not there. The sink takes out of Redis
-- what changes, so that nobody is answered with an old count.
CREATE TABLE page_counts (
  user_id TEXT NOT NULL, page_url TEXT NOT NULL, click_count BIGINT, PRIMARY KEY (user_id, page_url)
) WITH (
  connector = 'postgres', url = '${env:PG_URL}', table = 'page_clicks', http.path = '/analytics/counts',
  cache.url = '${env:REDIS_URL}', cache.key = '{user_id}__+__{page_url}', cache.ttl = '1 minute'
);
