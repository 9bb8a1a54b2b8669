package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

type forwardFlags struct {
	*flag.FlagSet
	server
	port *int
}

func newForwardFlags(name string) forwardFlags {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	return forwardFlags{
		flags,
		serverFlags(flags),
		flags.Int("port", 0, "the port in the pod"),
	}
}

// Prints the address that is forwarded, and forwards until standard input ends.
func forward(args []string) error {
	flags := newForwardFlags("forward")
	flags.Parse(args)
	address, done, err := startForward(flags)
	if err != nil {
		return err
	}
	fmt.Println(address)
	stdin := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stdin)
	}()
	select {
	case err := <-done:
		return err
	case <-stdin:
		return nil
	}
}

// Reads from that many connections until they end, and prints a report as JSON.
func load(args []string) error {
	flags := newForwardFlags("load")
	connections := flags.Int("connections", 1, "how many")
	parallel := flags.Int("parallel", 1, "how many at once")
	flags.Parse(args)
	address, _, err := startForward(flags)
	if err != nil {
		return err
	}
	var mutex sync.Mutex
	var group sync.WaitGroup
	var bytes, failed int64
	free := make(chan struct{}, *parallel)
	start := time.Now()
	for range *connections {
		free <- struct{}{}
		group.Go(func() {
			count, err := readAll(address)
			mutex.Lock()
			bytes += count
			if err != nil {
				failed++
				fmt.Fprintln(os.Stderr, err)
			}
			mutex.Unlock()
			<-free
		})
	}
	group.Wait()
	ms := float64(time.Since(start).Microseconds()) / 1000
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"bytes": bytes, "failed": failed, "ms": ms})
}

func readAll(address string) (int64, error) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	return io.Copy(io.Discard, connection)
}

func startForward(flags forwardFlags) (address string, done <-chan error, err error) {
	dialer, err := newDialer(flags.server)
	if err != nil {
		return "", nil, err
	}
	ready := make(chan struct{})
	ports := []string{fmt.Sprintf("0:%d", *flags.port)}
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, nil, ready, io.Discard, os.Stderr)
	if err != nil {
		return "", nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case err := <-failed:
		return "", nil, err
	case <-ready:
	}
	forwarded, err := forwarder.GetPorts()
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("127.0.0.1:%d", forwarded[0].Local), failed, nil
}

func newDialer(target server) (httpstream.Dialer, error) {
	parsed, config, err := target.config()
	if err != nil {
		return nil, err
	}
	if target.websocket() {
		return portforward.NewSPDYOverWebsocketDialer(parsed, config)
	}
	tripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: tripper}, "POST", parsed), nil
}
