// Becomes a part of the standard library's package in the broker that tests/tools/build compiles for tests of wrong clocks.

package time

import "syscall"

// clockAhead is how many seconds the time of day of this program is ahead of the machine's.
var clockAhead = readClockAhead()

func readClockAhead() int64 {
	text, _ := syscall.Getenv("CLOCK_AHEAD")
	seconds, _ := atoi(text)
	return int64(seconds)
}
