-- part is the member of the content that body was in: content.body, content.name or content.topic.
-- body is in lower case.
CREATE TABLE search_texts (
  event_id TEXT NOT NULL PRIMARY KEY,
  room_id TEXT NOT NULL,
  ts BIGINT NOT NULL,
  part TEXT NOT NULL,
  body TEXT NOT NULL
);
CREATE INDEX search_texts_room ON search_texts (room_id, ts);

-- The newest name of everybody who joined a room. words is user id and name in lower case.
CREATE TABLE search_people (
  user_id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  avatar TEXT NOT NULL,
  words TEXT NOT NULL,
  ts BIGINT NOT NULL
);

-- Rooms that anybody may join or read: their members are found by everybody.
CREATE TABLE search_rooms (
  room_id TEXT NOT NULL PRIMARY KEY,
  joinable BOOLEAN NOT NULL,
  readable BOOLEAN NOT NULL
);

CREATE TABLE search_positions (
  shard BIGINT NOT NULL PRIMARY KEY,
  pos BIGINT NOT NULL
);
