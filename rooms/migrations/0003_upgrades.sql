-- Upgrades of rooms that are not finished: a row is stored with the new room (room_id), and goes when the old room names it in
-- its tombstone and is closed, or when the new room was abandoned. tombstone is the event that the new one replaces.
CREATE TABLE room_upgrades (
  room_id TEXT NOT NULL PRIMARY KEY,
  old_room TEXT NOT NULL,
  user_id TEXT NOT NULL,
  tombstone TEXT NOT NULL
);
CREATE INDEX room_upgrades_old ON room_upgrades (old_room);
