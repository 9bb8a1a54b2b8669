//go:build tools

// Package kubelet pins the kubelet that the node tests run: go.mod and go.sum name its exact sources.
package kubelet

import _ "k8s.io/kubernetes/cmd/kubelet/app"
