//go:build tools

// Package critest pins the programs that hold Crib to the CRI: go.mod and go.sum name their exact sources.
package critest

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
