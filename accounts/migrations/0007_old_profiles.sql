-- What was made of a profile that had changed meanwhile, such as a membership: what is at that place (a room) is to be renewed. id is
-- that of what was made last.
CREATE TABLE old_profiles (
  user_id TEXT NOT NULL,
  place TEXT NOT NULL,
  id TEXT NOT NULL,
  PRIMARY KEY (user_id, place)
);
