-- Relations of an event are read in the order of a page, whatever else points at the event. target alone is no place to look in: who
-- is in another room may point at the event from there any number of times.
CREATE INDEX relations_target ON relations (target, room_id, pos);
CREATE INDEX relations_kind ON relations (target, room_id, rel_type, pos, sender);
CREATE INDEX relations_sender ON relations (target, room_id, sender, rel_type, pos);
-- The same annotation by the same sender, which is refused.
CREATE INDEX relations_same ON relations (target, room_id, sender, agg_key, type) WHERE rel_type = 'm.annotation';
