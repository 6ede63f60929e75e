-- Memberships that were stored with a profile which had changed: the room is to get the one of now. event_id is that of the newest.
CREATE TABLE old_profiles (
  user_id TEXT NOT NULL,
  room_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  PRIMARY KEY (user_id, room_id)
);
