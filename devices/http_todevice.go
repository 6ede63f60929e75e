package devices

import (
	"encoding/json"

	"lyceum/matrix"
	"lyceum/platform/web"
)

func (x *Devices) putToDevice(r *web.Request, body *struct {
	Messages map[string]map[string]json.RawMessage `json:"messages"`
},
) (any, error) {
	if body.Messages == nil {
		return nil, matrix.MissingParam("messages is missing: expected contents by user id and device id")
	}
	return nil, x.Send(r.Context(), Delivery{
		Sender: r.UserID(), DeviceID: r.DeviceID(), Type: r.Path("type"), TxnID: r.Path("txnID"), Messages: body.Messages,
	})
}
