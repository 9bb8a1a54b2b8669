// The streaming server of CRI-O and containerd (k8s.io/cri-streaming) without a container runtime, to
// compare with: commands are run on this machine, ports are dialled here. Reads requests from standard
// input, one a line, and answers each with a URL, or ERROR and why:
//
//	exec COMMAND ARGUMENT...
//	forward
//	target BYTES     a TCP server that sends so many bytes to whoever connects; answers with its port
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	config := streaming.DefaultConfig
	config.Addr = listener.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr}
	server, err := streaming.NewServer(config, host{})
	if err != nil {
		panic(err)
	}
	go http.Serve(listener, server)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := serve(server, strings.Fields(lines.Text()))
		if err != nil {
			answer = fmt.Sprintf("ERROR %v", err)
		}
		fmt.Println(answer)
	}
}

func serve(server streaming.Server, words []string) (string, error) {
	if len(words) == 0 {
		return "", fmt.Errorf("an empty line")
	}
	switch words[0] {
	case "exec":
		answer, err := server.GetExec(&runtime.ExecRequest{ContainerId: "x", Cmd: words[1:], Stdout: true})
		return answer.GetUrl(), err
	case "forward":
		answer, err := server.GetPortForward(&runtime.PortForwardRequest{PodSandboxId: "x"})
		return answer.GetUrl(), err
	case "target":
		return target(words[1])
	}
	return "", fmt.Errorf("no command %s", words[0])
}

func target(size string) (string, error) {
	var bytes int64
	if _, err := fmt.Sscan(size, &bytes); err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				io.CopyN(connection, zeros{}, bytes)
			}()
		}
	}()
	return fmt.Sprint(listener.Addr().(*net.TCPAddr).Port), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Runs commands as CRI-O runs the OCI runtime's exec: with pipes that it copies from.
type host struct{}

func (host) Exec(ctx context.Context, _ string, cmd []string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	child := exec.CommandContext(ctx, cmd[0], cmd[1:]...)
	stdout, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	if _, err := io.Copy(out, stdout); err != nil {
		return err
	}
	return child.Wait()
}

func (host) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return fmt.Errorf("there is nothing to attach to")
}

func (host) PortForward(_ context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	connection, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", port))
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		io.Copy(connection, stream)
		connection.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, connection)
	return err
}
