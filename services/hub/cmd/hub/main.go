// Command hub runs one replica of the hub.
package main

import (
	"context"

	"mimimi.example/pkg/service"
	"mimimi.example/services/hub"
)

func main() {
	service.Main("hub", func(path string) (func(context.Context, *service.Env) error, error) {
		cfg, err := hub.Load(path)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, env *service.Env) error { return hub.Run(ctx, cfg, env) }, nil
	})
}
