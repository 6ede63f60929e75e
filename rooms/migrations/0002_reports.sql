CREATE INDEX events_ts ON events (room_id, ts);

CREATE TABLE reports (
  report_id TEXT NOT NULL PRIMARY KEY,
  created_ms BIGINT NOT NULL,
  reporter TEXT NOT NULL,
  room_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  user_id TEXT NOT NULL,
  reason TEXT NOT NULL
);
CREATE INDEX reports_time ON reports (created_ms, report_id);
