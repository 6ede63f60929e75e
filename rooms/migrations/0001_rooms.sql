CREATE TABLE rooms (
  room_id TEXT NOT NULL PRIMARY KEY,
  version TEXT NOT NULL,
  creator TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  visibility TEXT NOT NULL
);
CREATE INDEX rooms_public ON rooms (visibility, room_id) WHERE visibility <> 'private';

-- root is the state after the event. extremities is NULL when the event is the only forward extremity.
CREATE TABLE events (
  shard BIGINT NOT NULL,
  pos BIGINT NOT NULL,
  room_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  type TEXT NOT NULL,
  state_key TEXT,
  sender TEXT NOT NULL,
  ts BIGINT NOT NULL,
  root BYTEA NOT NULL,
  json BYTEA NOT NULL,
  device TEXT NOT NULL,
  txn TEXT,
  replaces TEXT,
  redacted_by TEXT,
  extremities TEXT,
  PRIMARY KEY (shard, pos)
);
CREATE UNIQUE INDEX events_id ON events (event_id);
CREATE UNIQUE INDEX events_room ON events (room_id, pos);
CREATE UNIQUE INDEX events_txn ON events (room_id, sender, device, txn) WHERE txn IS NOT NULL;

CREATE TABLE state_nodes (
  id BYTEA NOT NULL PRIMARY KEY,
  node BYTEA NOT NULL
);

CREATE TABLE memberships (
  user_id TEXT NOT NULL,
  room_id TEXT NOT NULL,
  membership TEXT NOT NULL,
  event_id TEXT NOT NULL,
  sender TEXT NOT NULL,
  pos BIGINT NOT NULL,
  forgotten BOOLEAN NOT NULL,
  PRIMARY KEY (user_id, room_id)
);
CREATE INDEX memberships_room ON memberships (room_id, membership);

-- One row for each event that refers to another by m.relates_to.
CREATE TABLE relations (
  target TEXT NOT NULL,
  event_id TEXT NOT NULL,
  room_id TEXT NOT NULL,
  rel_type TEXT NOT NULL,
  type TEXT NOT NULL,
  sender TEXT NOT NULL,
  agg_key TEXT NOT NULL,
  pos BIGINT NOT NULL,
  PRIMARY KEY (target, event_id)
);
CREATE UNIQUE INDEX relations_event ON relations (event_id);
CREATE INDEX relations_room ON relations (room_id, rel_type, pos);

CREATE TABLE aliases (
  alias TEXT NOT NULL PRIMARY KEY,
  room_id TEXT NOT NULL,
  creator TEXT NOT NULL,
  created_ms BIGINT NOT NULL
);
CREATE INDEX aliases_room ON aliases (room_id);
