// Package picture makes thumbnails of untrusted pictures: pure functions on bytes. It runs in the confined
// process of package media, never in the server itself.
//
// It reads PNG, JPEG, GIF, WebP, BMP and TIFF, of moving pictures the first frame, and turns them as
// their EXIF orientation says. Thumbnails are encoded anew, so no metadata of the source is left.
package picture
