-- The counts of the clickstream where other programs look for them.
CREATE SINK page_clicks_in_postgres FROM page_clicks WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'page_clicks');
CREATE SINK page_clicks_in_redis FROM page_clicks
WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'json', key = '{user_id}__+__{page_url}');
