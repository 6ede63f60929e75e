// Package kubernetestest applies the manifests of package deploy to a real Kubernetes control plane and looks at
// what its controllers make of them. It has only tests, behind the build tag kubernetes; ./run builds the control
// plane and runs them. There are no nodes: the test takes the place of the kubelets and says that pods are ready.
package kubernetestest
