// Command provider runs one replica of a domain's provider.
package main

import (
	"context"

	"mimimi.example/pkg/service"
	"mimimi.example/services/provider"
)

func main() {
	service.Main("provider", func(path string) (func(context.Context, *service.Env) error, error) {
		cfg, err := provider.Load(path)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, env *service.Env) error { return provider.Run(ctx, cfg, env) }, nil
	})
}
