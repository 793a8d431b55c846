package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/registry"
)

// parallelPatches bounds the writes of one report: an agent that starts reports
// every pod of its node at once.
const parallelPatches = 8

// reports writes what node agents say into the conditions of their pods. Every
// replica does, whichever an agent is connected to: it is the pod that carries
// the news to the others.
type reports struct {
	index  *registry.Index
	cached client.Reader // pods as watched
	client client.Client
	now    func() time.Time
}

// take handles one report. It fails if any pod could not be written, and the
// agent then reports again; pods that are gone are no failure.
func (r *reports) take(ctx context.Context, from configstream.Peer, pods []configstream.PodReport) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelPatches)
	for _, report := range pods {
		info, ok := r.index.Pod(report.ID)
		if !ok {
			continue
		}
		if info.Node != from.Node {
			return status.Errorf(codes.PermissionDenied, "pod %s/%s is not on node %s", info.Namespace, info.Name, from.Node)
		}
		group.Go(func() error { return r.write(ctx, info, report) })
	}
	return group.Wait()
}

func (r *reports) write(ctx context.Context, info registry.PodInfo, report configstream.PodReport) error {
	key := types.NamespacedName{Namespace: info.Namespace, Name: info.Name}
	var pod corev1.Pod
	if err := r.cached.Get(ctx, key, &pod); err != nil || pod.UID != types.UID(report.ID) {
		return client.IgnoreNotFound(err)
	}
	next := enrolledCondition(report)
	if !worthWriting(pod.Status.Conditions, next) {
		return nil
	}
	body, err := conditionPatch(pod.UID, pod.Status.Conditions, next, r.now())
	if err != nil {
		return err
	}
	err = r.client.Status().Patch(ctx, &pod, client.RawPatch(types.StrategicMergePatchType, body))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // deleted, or another pod of that name by now
	}
	if err != nil {
		return fmt.Errorf("condition of pod %s: %w", key, err)
	}
	return nil
}

func enrolledCondition(r configstream.PodReport) corev1.PodCondition {
	c := corev1.PodCondition{Type: mesh.ConditionEnrolled, Status: corev1.ConditionFalse, Reason: r.Reason, Message: r.Message}
	if r.Enrolled {
		c.Status = corev1.ConditionTrue
	}
	return c
}

// worthWriting reports whether the condition says something new. That a pod
// which never was in the mesh is not in it goes without saying.
func worthWriting(have []corev1.PodCondition, next corev1.PodCondition) bool {
	for _, c := range have {
		if c.Type == next.Type {
			return c.Status != next.Status || c.Reason != next.Reason || c.Message != next.Message
		}
	}
	return next.Status == corev1.ConditionTrue || next.Reason != "" || next.Message != ""
}

// conditionPatch is a strategic merge patch of one condition, which fails if the
// pod is another one by now.
func conditionPatch(uid types.UID, have []corev1.PodCondition, next corev1.PodCondition, now time.Time) ([]byte, error) {
	next.LastTransitionTime = metav1.NewTime(now)
	for _, c := range have {
		if c.Type == next.Type && c.Status == next.Status {
			next.LastTransitionTime = c.LastTransitionTime
		}
	}
	type m = map[string]any
	return json.Marshal(m{
		"metadata": m{"uid": uid},
		"status": m{"conditions": []m{{
			"type": next.Type, "status": next.Status, "reason": next.Reason, "message": next.Message,
			"lastTransitionTime": next.LastTransitionTime,
		}}},
	})
}
