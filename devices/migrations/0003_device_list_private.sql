-- The newest change of a user's keys that one viewer alone can see: rows of the stream device_lists.
CREATE TABLE device_list_private (
    viewer  TEXT NOT NULL,
    user_id TEXT NOT NULL,
    shard   BIGINT NOT NULL,
    pos     BIGINT NOT NULL,
    PRIMARY KEY (viewer, user_id)
);
CREATE UNIQUE INDEX device_list_private_pos ON device_list_private (shard, pos);
