package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// prefix starts the name of every variable that sets a key: decoder.heartbeat
// is MILLRACE_DECODER_HEARTBEAT.
const prefix = "MILLRACE_"

// maxEnvSources bounds MILLRACE_SOURCES_<i>_….
const maxEnvSources = 64

// notKeys are variables with our prefix that are no configuration keys.
var notKeys = []string{"MILLRACE_PG_BIN", "MILLRACE_PG_REPOSITORY"}

// overrides applies the environment, which wins over the file.
func (d *decoder) overrides(cfg *Config) {
	known := make(map[string]bool)
	for _, name := range notKeys {
		known[name] = true
	}
	d.overrideStruct("", prefix, reflect.ValueOf(cfg).Elem(), known)
	names := slices.Collect(maps.Keys(known))
	slices.Sort(names)
	for _, name := range slices.Sorted(maps.Keys(d.env)) {
		if !strings.HasPrefix(name, prefix) || known[name] {
			continue
		}
		// Others set such variables too: Kubernetes does for a service named
		// millrace. Only what looks like a slip is worth a word.
		if near := closest(name, names); near != "" && editDistance(name, near) <= 2 {
			cfg.Warnings = append(cfg.Warnings, fmt.Sprintf("the environment variable %s sets nothing; did you mean %s?", name, near))
		}
	}
}

func (d *decoder) overrideStruct(key, name string, v reflect.Value, known map[string]bool) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag.Get("yaml")
		if tag == "-" {
			continue
		}
		d.override(join(key, tag), name+strings.ToUpper(tag), v.Field(i), known)
	}
}

func (d *decoder) override(key, name string, v reflect.Value, known map[string]bool) {
	switch {
	case v.Type() == reflect.TypeFor[[]Source]():
		d.overrideSources(key, name, v, known)
		return
	case v.Kind() == reflect.Struct:
		d.overrideStruct(key, name+"_", v, known)
		return
	}
	known[name] = true
	text, ok := d.env[name]
	if !ok {
		return
	}
	d.where[key] = place{env: name}
	switch {
	case v.Type() == reflect.TypeFor[[]JWK]():
		var keys []json.RawMessage
		if err := json.Unmarshal([]byte(text), &keys); err != nil {
			d.fail(key, `for example [{"kty":"oct","alg":"HS256","k":"…","kid":"dev"}]`, "a JSON array of JSON Web Keys is needed here")
			return
		}
		list := make([]JWK, len(keys))
		for i, k := range keys {
			list[i] = JWK(k)
		}
		v.Set(reflect.ValueOf(list))
	case v.Kind() == reflect.Slice:
		var list []string
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		v.Set(reflect.ValueOf(list))
	default:
		if err := setScalar(v, text); err != nil {
			d.fail(key, "", "%v", err)
		}
	}
}

// overrideSources applies MILLRACE_SOURCES_<i>_URI and so on, i from 0; a
// source that is not in the file is added.
func (d *decoder) overrideSources(key, name string, v reflect.Value, known map[string]bool) {
	for i := range maxEnvSources {
		itemName := fmt.Sprintf("%s_%d_", name, i)
		mine := make(map[string]bool)
		item := reflect.New(v.Type().Elem()).Elem()
		if i < v.Len() {
			item = v.Index(i)
		}
		d.overrideStruct(fmt.Sprintf("%s[%d]", key, i), itemName, item, mine)
		maps.Copy(known, mine)
		if i < v.Len() {
			continue
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(mine)), func(n string) bool { _, ok := d.env[n]; return ok }) {
			return
		}
		v.Set(reflect.Append(v, item))
	}
}
