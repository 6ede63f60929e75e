-- Of the rooms that have rules few are open: each search for users asks for them.
CREATE INDEX search_rooms_open ON search_rooms (room_id) WHERE joinable OR readable;
