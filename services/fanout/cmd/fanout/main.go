// Command fanout turns the accepted entries of one domain's groups into deliveries.
package main

import (
	"context"

	"mimimi.example/pkg/service"
	"mimimi.example/services/fanout"
)

func main() {
	service.Main("fanout", func(path string) (func(ctx context.Context, e *service.Env) error, error) {
		cfg, err := fanout.Load(path)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, e *service.Env) error { return fanout.Run(ctx, cfg, e) }, nil
	})
}
