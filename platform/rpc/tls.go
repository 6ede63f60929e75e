package rpc

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"time"
)

// serverName is the name in every certificate of a fleet. A certificate says that a process is a member, not which address it has.
const serverName = "lyceum.internal"

// minSecret is the shortest fleet secret in bytes.
const minSecret = 16

// certificate derives the fleet's certificate authority from the secret, makes a key for this process and signs its certificate.
func certificate(secret []byte) (tls.Certificate, *x509.CertPool, error) {
	if len(secret) < minSecret {
		return tls.Certificate{}, nil, errors.New("the fleet's secret is too short: give at least 16 bytes")
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "lyceum internal authority", ed25519.SeedSize)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	authority := ed25519.NewKeyFromSeed(seed)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lyceum fleet"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, authority.Public(), authority)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	if root, err = x509.ParseCertificate(der); err != nil {
		return tls.Certificate{}, nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "lyceum process"}, DNSNames: []string{serverName},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, public, authority)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: private}, pool, nil
}

// configs are the TLS settings of the internal listener and of calls to it.
func configs(secret []byte) (server, client *tls.Config, err error) {
	cert, pool, err := certificate(secret)
	if err != nil {
		return nil, nil, err
	}
	server = &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{linkProtocol, "h2", "http/1.1"},
		DynamicRecordSizingDisabled: true,
	}
	client = &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: serverName, MinVersion: tls.VersionTLS13,
		DynamicRecordSizingDisabled: true,
		ClientSessionCache:          tls.NewLRUClientSessionCache(64),
	}
	return server, client, nil
}
