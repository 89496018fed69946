// Command ggcr serves go-containerregistry's registry, referrers API on, for the tests.
//
// usage: ggcr ADDRESS BLOB_FOLDER
package main

import (
	"io"
	"log"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: ggcr ADDRESS BLOB_FOLDER")
	}
	handler := registry.New(
		registry.WithReferrersSupport(true),
		registry.WithBlobHandler(registry.NewDiskBlobHandler(os.Args[2])),
		registry.Logger(log.New(io.Discard, "", 0)),
	)
	log.Fatal(http.ListenAndServe(os.Args[1], handler)) //nolint:gosec // loopback, tests only
}
