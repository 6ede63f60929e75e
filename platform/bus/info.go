package bus

import (
	"context"
	"strings"
)

// Info gives the fields of Redis's INFO, of one node where there are many.
func (r *Redis) Info(ctx context.Context) (map[string]string, error) {
	s, err := r.session()
	if err != nil {
		return nil, err
	}
	var text string
	err = s.do(ctx, func(ctx context.Context) error {
		var err error
		text, err = s.client.Do(ctx, s.client.B().Info().Build()).ToString()
		return err
	})
	if err != nil {
		return nil, err
	}
	return infoFields(text), nil
}

func infoFields(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			out[name] = value
		}
	}
	return out
}
