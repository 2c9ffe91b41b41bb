// Command kpstore runs the KeyPackage store of one domain.
package main

import (
	"context"

	"mimimi.example/pkg/service"
	"mimimi.example/services/kpstore"
)

func main() {
	service.Main("kpstore", func(path string) (func(ctx context.Context, e *service.Env) error, error) {
		cfg, err := kpstore.Load(path)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, e *service.Env) error { return kpstore.Run(ctx, cfg, e) }, nil
	})
}
