package main

import (
	"flag"
	"net/url"

	"k8s.io/client-go/rest"
)

// Where the server is, and who the client says to be.
type server struct {
	url, transport, cert, key, token *string
}

func serverFlags(flags *flag.FlagSet) server {
	return server{
		flags.String("url", "", "what Exec, Attach or PortForward answered, or a kubelet's"),
		flags.String("transport", "spdy", "spdy or websocket"),
		flags.String("cert", "", "file of the client's certificate"),
		flags.String("key", "", "file of its key"),
		flags.String("token", "", "a bearer token"),
	}
}

func (s server) websocket() bool { return *s.transport == "websocket" }

func (s server) config() (*url.URL, *rest.Config, error) {
	tls := rest.TLSClientConfig{Insecure: true, CertFile: *s.cert, KeyFile: *s.key}
	parsed, err := url.Parse(*s.url)
	return parsed, &rest.Config{TLSClientConfig: tls, BearerToken: *s.token}, err
}
