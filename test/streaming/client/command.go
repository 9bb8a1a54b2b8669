package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// Execs or attaches, like kubectl: the command's exit code is this program's. With -discard the output
// is only counted, and a JSON report printed at the end.
func command(args []string) error {
	flags := flag.NewFlagSet("command", flag.ExitOnError)
	target := flags.String("url", "", "what Exec or Attach answered")
	transport := flags.String("transport", "spdy", "spdy or websocket")
	protocols := flags.String("protocols", "", "what the client offers, instead of client-go's own")
	stdin := flags.Bool("stdin", false, "send this program's standard input")
	stdout := flags.Bool("stdout", false, "receive standard output")
	stderr := flags.Bool("stderr", false, "receive standard error")
	tty := flags.Bool("tty", false, "there is a terminal")
	size := flags.String("size", "", "the terminal's size, COLUMNSxROWS")
	discard := flags.Bool("discard", false, "count the output instead of printing it")
	stallAfter := flags.Int64("stall-after", 0, "bytes of output after which nothing is read for a while")
	stall := flags.Duration("stall", 0, "for how long")
	flags.Parse(args)

	executor, err := newExecutor(*transport, *target, *protocols)
	if err != nil {
		return err
	}
	output := &meter{stallAfter: *stallAfter, stall: *stall}
	if !*discard {
		output.to = os.Stdout
	}
	options := remotecommand.StreamOptions{Tty: *tty}
	if *stdin {
		options.Stdin = os.Stdin
	}
	if *stdout {
		options.Stdout = output
	}
	if *stderr {
		options.Stderr = os.Stderr
	}
	if *size != "" {
		queue := &sizes{}
		if _, err := fmt.Sscanf(*size, "%dx%d", &queue.size.Width, &queue.size.Height); err != nil {
			return err
		}
		options.TerminalSizeQueue = queue
	}
	start := time.Now()
	err = executor.StreamWithContext(context.Background(), options)
	if *discard {
		report := map[string]any{"bytes": output.count, "ms": float64(time.Since(start).Microseconds()) / 1000}
		if err != nil {
			report["error"] = err.Error()
		}
		return json.NewEncoder(os.Stdout).Encode(report)
	}
	var code exec.CodeExitError
	if errors.As(err, &code) {
		os.Exit(code.Code)
	}
	return err
}

func newExecutor(transport, target, protocols string) (remotecommand.Executor, error) {
	parsed, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	offered := strings.FieldsFunc(protocols, func(r rune) bool { return r == ',' })
	switch {
	case transport == "websocket" && len(offered) > 0:
		return remotecommand.NewWebSocketExecutorForProtocols(config, "GET", target, offered...)
	case transport == "websocket":
		return remotecommand.NewWebSocketExecutor(config, "GET", target)
	case len(offered) > 0:
		tripper, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutorForProtocols(tripper, upgrader, "POST", parsed, offered...)
	}
	return remotecommand.NewSPDYExecutor(config, "POST", parsed)
}

// A meter counts what is written, and stops once for a while.
type meter struct {
	to         io.Writer
	count      int64
	stallAfter int64
	stall      time.Duration
}

func (m *meter) Write(p []byte) (int, error) {
	m.count += int64(len(p))
	if m.stall > 0 && m.count >= m.stallAfter {
		time.Sleep(m.stall)
		m.stall = 0
	}
	if m.to == nil {
		return len(p), nil
	}
	return m.to.Write(p)
}

// Tells one size.
type sizes struct {
	size remotecommand.TerminalSize
	told bool
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	if s.told {
		select {}
	}
	s.told = true
	return &s.size
}
