package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// Execs or attaches, like kubectl: the command's exit code is this program's. With -discard the output
// is only counted, and a JSON report printed at the end.
func command(args []string) error {
	flags := flag.NewFlagSet("command", flag.ExitOnError)
	target := serverFlags(flags)
	protocols := flags.String("protocols", "", "what the client offers, instead of client-go's own")
	stdin := flags.Bool("stdin", false, "send this program's standard input")
	in := flags.String("in", "", "send this file instead of standard input")
	stdout := flags.Bool("stdout", false, "receive standard output")
	out := flags.String("out", "", "write it to this file")
	stderr := flags.Bool("stderr", false, "receive standard error")
	tty := flags.Bool("tty", false, "there is a terminal")
	size := flags.String("size", "", "the terminal's sizes, COLUMNSxROWS: each further one after SIGUSR1")
	discard := flags.Bool("discard", false, "count the output instead of printing it")
	stallAfter := flags.Int64("stall-after", 0, "bytes of output after which nothing is read for a while")
	stall := flags.Duration("stall", 0, "for how long")
	flags.Parse(args)

	executor, err := newExecutor(target, *protocols)
	if err != nil {
		return err
	}
	output := &meter{stallAfter: *stallAfter, stall: *stall}
	if !*discard {
		output.to = os.Stdout
	}
	if *out != "" {
		if output.to, err = os.Create(*out); err != nil {
			return err
		}
	}
	options := remotecommand.StreamOptions{Tty: *tty}
	if *stdin {
		options.Stdin = os.Stdin
	}
	if *in != "" {
		if options.Stdin, err = os.Open(*in); err != nil {
			return err
		}
	}
	if *stdout || *out != "" {
		options.Stdout = output
	}
	if *stderr {
		options.Stderr = os.Stderr
	}
	if *size != "" {
		if options.TerminalSizeQueue, err = parseSizes(*size); err != nil {
			return err
		}
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

func newExecutor(target server, protocols string) (remotecommand.Executor, error) {
	parsed, config, err := target.config()
	if err != nil {
		return nil, err
	}
	offered := strings.FieldsFunc(protocols, func(r rune) bool { return r == ',' })
	switch {
	case target.websocket() && len(offered) > 0:
		return remotecommand.NewWebSocketExecutorForProtocols(config, "GET", *target.url, offered...)
	case target.websocket():
		return remotecommand.NewWebSocketExecutor(config, "GET", *target.url)
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

// Tells the first size at once, and one more after each signal.
type sizes struct {
	left   []remotecommand.TerminalSize
	signal chan os.Signal
}

func parseSizes(text string) (*sizes, error) {
	queue := &sizes{signal: make(chan os.Signal, 1)}
	for word := range strings.SplitSeq(text, ",") {
		var size remotecommand.TerminalSize
		if _, err := fmt.Sscanf(word, "%dx%d", &size.Width, &size.Height); err != nil {
			return nil, err
		}
		queue.left = append(queue.left, size)
	}
	signal.Notify(queue.signal, syscall.SIGUSR1)
	queue.signal <- syscall.SIGUSR1
	return queue, nil
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		select {}
	}
	<-s.signal
	size := s.left[0]
	s.left = s.left[1:]
	return &size
}
