// Package caller carries on whose behalf work is done, so that shared resources are divided between callers: package web sets the caller of
// a request ([NewWork]), and package db divides its connections by it ([Of]).
package caller
