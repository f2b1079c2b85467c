-- NEXMark's three streams: an auction site.

CREATE STREAM person (
  id            BIGINT NOT NULL,
  name          TEXT NOT NULL,
  email_address TEXT NOT NULL,
  credit_card   TEXT NOT NULL,
  city          TEXT NOT NULL,
  state         TEXT NOT NULL,
  date_time     TIMESTAMP NOT NULL,
  extra         TEXT NOT NULL,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH (partitions = 4);

CREATE STREAM auction (
  id          BIGINT NOT NULL,
  item_name   TEXT NOT NULL,
  description TEXT NOT NULL,
  initial_bid BIGINT NOT NULL,
  reserve     BIGINT NOT NULL,
  date_time   TIMESTAMP NOT NULL,
  expires     TIMESTAMP NOT NULL,
  seller      BIGINT NOT NULL,
  category    BIGINT NOT NULL,
  extra       TEXT NOT NULL,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH (partitions = 4);

CREATE STREAM bid (
  auction   BIGINT NOT NULL,
  bidder    BIGINT NOT NULL,
  price     BIGINT NOT NULL,
  channel   TEXT NOT NULL,
  url       TEXT NOT NULL,
  date_time TIMESTAMP NOT NULL,
  extra     TEXT NOT NULL,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH (partitions = 4);
