// Prints the descriptors of Kubernetes' CRI API as a FileDescriptorSet: the independent source
// that the contract test compares proto/runtime/v1 with.
package main

import (
	"fmt"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	set := &descriptorpb.FileDescriptorSet{
		File: []*descriptorpb.FileDescriptorProto{
			protodesc.ToFileDescriptorProto(runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto),
		},
	}
	encoded, err := proto.Marshal(set)
	if err == nil {
		_, err = os.Stdout.Write(encoded)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "descriptors:", err)
		os.Exit(1)
	}
}
