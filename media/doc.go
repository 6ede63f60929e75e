// Package media owns the files of users: upload, download and thumbnails.
//
// Tables: media (a file under its media id; several may share their bytes), thumbnails (what was made of
// some bytes in one size, or why nothing could be).
//
// Blobs: media/<sha256> and thumbnails/<sha256>. A file is stored before its row, so a crash between the two
// leaves bytes that nobody finds, never a row without bytes.
//
// Topic of the bus: "media.uploaded", the media id of an upload that others may wait for.
//
// Role: media.
//
// An upload: postUpload -> receive (blob.PutContent reads the body through an uploadReader) -> insertMedia. One in two steps:
// postCreate -> insertPending, later putUpload -> receive -> completePending -> waiters.wake.
//
// A download: getDownload -> requestedFile -> await (findMedia, and waiters.join until the file is there) -> serve.
//
// A thumbnail: getThumbnail -> requestedFile -> thumbnailOf (readThumbnail) -> makeOnce -> makeThumbnail -> makeInWorker -> workers.run,
// and in the worker's process WorkerMain -> picture.Thumbnail; then writeThumbnail and serve.
//
// Invariants:
//   - No file is read whole into memory here. Pictures are decoded in a process of their own for each
//     thumbnail (WorkerMain), which can open no file and no socket, and has limits of memory and time
//     (platform/confine).
//   - The content under a media id never changes.
//   - A thumbnail has one of the sizes of the table in size.go, so that nobody can fill the store by asking
//     for many.
package media
