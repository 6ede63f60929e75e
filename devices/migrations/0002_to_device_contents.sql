-- A content that several messages of one ticket share, under the position of the first of them.
CREATE TABLE to_device_contents (
    shard   BIGINT NOT NULL,
    pos     BIGINT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (shard, pos)
);

-- Where the content is: 0 for in the row itself.
ALTER TABLE to_device ADD COLUMN content_pos BIGINT NOT NULL DEFAULT 0;
CREATE INDEX to_device_shared ON to_device (shard, content_pos) WHERE content_pos <> 0;

-- How far a delivery in several tickets has come: the last receiver in the order of user and device id.
ALTER TABLE to_device_txns ADD COLUMN done BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE to_device_txns ADD COLUMN upto_user TEXT NOT NULL DEFAULT '';
ALTER TABLE to_device_txns ADD COLUMN upto_device TEXT NOT NULL DEFAULT '';
