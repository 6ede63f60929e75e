-- What a change of an account leaves to be done in other parts of the server, at the position of the change in the stream
-- "sessions": kind is devices (body: the list of those that were removed) or profile (body: the field). Rows go when it is done.
CREATE TABLE account_news (
  shard BIGINT NOT NULL,
  pos BIGINT NOT NULL,
  user_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  body TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (shard, pos)
);
