-- What leaves Headwater in this form: the counts in PostgreSQL, and a key in Redis for each of them.

CREATE SINK warehouse FROM page_clicks WITH (
  connector = 'postgres', url = '${env:PG_URL}', table = 'page_clicks'
);

CREATE SINK cache FROM page_clicks WITH (
  connector = 'redis', url = '${env:REDIS_URL}', mode = 'json', key = '{user_id}__+__{page_url}'
);
