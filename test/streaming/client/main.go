// The streaming client of kubectl (k8s.io/client-go) as a program, for tests and benchmarks:
//
//	client command -url URL [-transport spdy|websocket] [-protocols a,b] [-stdin] [-stdout] [-stderr] [-tty] [-size 80x24]
//	client forward -url URL [-transport spdy|websocket] -port PORT
//	client load    -url URL [-transport spdy|websocket] -port PORT -connections N -parallel N
//
// URL is what a CRI runtime's Exec, Attach or PortForward answered.
package main

import (
	"fmt"
	"os"
)

func main() {
	commands := map[string]func([]string) error{"command": command, "forward": forward, "load": load}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fail(fmt.Errorf("usage: client command|forward|load -url URL ..."))
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
