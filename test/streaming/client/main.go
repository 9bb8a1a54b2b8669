// The streaming client of kubectl (k8s.io/client-go) as a program, for tests and benchmarks:
//
//	client command SERVER [-protocols a,b] [-stdin] [-in FILE] [-stdout] [-out FILE] [-stderr] [-tty] [-size 80x24,100x30]
//	client forward SERVER -port PORT
//	client load    SERVER -port PORT -connections N -parallel N
//
// SERVER is -url URL [-transport spdy|websocket] [-cert FILE -key FILE] [-token TOKEN]. The URL is what a
// CRI runtime's Exec, Attach or PortForward answered, or a kubelet's:
//
//	https://127.0.0.1:10250/exec/NAMESPACE/POD/CONTAINER?command=ls&command=/&output=1&error=1
//	https://127.0.0.1:10250/attach/NAMESPACE/POD/CONTAINER?input=1&output=1
//	https://127.0.0.1:10250/portForward/NAMESPACE/POD
//
// Whose certificate the server has is not checked.
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
