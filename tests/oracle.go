// Oracle writes what Go's own text/template makes of the template cases.
//
//	make oracle, or: go run tests/oracle.go tests/data/templates/*.txt
//
// It rewrites the expectation at the end of each case in place and prints how many cases there are
// and which changed; a person then reads the diff. The expectations are those of Go 1.19. The
// format of the files is in tests/data/templates/README. Go's own message goes behind "--- error";
// the text below is ours and stays.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"text/template"
)

// Recipe is what {"#struct": {"Version": "1", "Data": ...}} in a case's data stands for.
type Recipe struct {
	Version string
	Data    interface{}
}

const caseMark = "\n=== "

// The one shortcut of recipes that cases use, as docs/pkggen.md has it.
var functions = template.FuncMap{"pkmv": func(file, from, to string) string {
	file = path.Clean(file)
	folder := path.Dir(file)
	return fmt.Sprintf("mkdir -p out/%s/%s\nmv out/%s/%s out/%s/%s",
		to, folder, from, file, to, folder)
}}

func main() {
	if !strings.HasPrefix(runtime.Version(), "go1.19") {
		fail("this is " + runtime.Version() + ", and the cases are those of go1.19")
	}
	count, changed := 0, 0
	for _, path := range os.Args[1:] {
		text, err := os.ReadFile(path)
		check(err)
		parts := strings.Split("\n"+string(text), caseMark)
		for i, part := range parts[1:] {
			old := strings.TrimSuffix(part, "\n")
			parts[i+1] = expect(old)
			count++
			if parts[i+1] != old {
				changed++
				name, _, _ := strings.Cut(old, "\n")
				fmt.Printf("%s: %s\n", path, name)
			}
			parts[i+1] += "\n"
		}
		result := strings.Join(parts, caseMark)
		check(os.WriteFile(path, []byte(strings.TrimPrefix(result, "\n")), 0o644))
	}
	fmt.Printf("%d cases, %d changed\n", count, changed)
}

// expect returns a case with its expectation renewed.
func expect(text string) string {
	text, _, _ = strings.Cut(text, "\n--- output\n")
	text, message, _ := strings.Cut(text, "\n--- error")
	_, ours, _ := strings.Cut(message, "\n")
	_, body, found := strings.Cut(text, "\n")
	if !found {
		fail("no template in case " + text)
	}
	result, err := render(body)
	if err != nil {
		message = strings.ReplaceAll(err.Error(), "\n", "\\n")
		return strings.TrimSuffix(text+"\n--- error: "+message+"\n"+ours, "\n")
	}
	return text + "\n--- output\n" + result
}

// render splits a case's body into template and data and runs the one on the other.
func render(body string) (string, error) {
	source, text, found := strings.Cut(body, "\n--- data\n")
	var data interface{}
	if found {
		data = decode(text)
	}
	parsed, err := template.New("template").Funcs(functions).Parse(source)
	if err != nil {
		return "", err
	}
	var result bytes.Buffer
	err = parsed.Execute(&result, data)
	return result.String(), err
}

// decode reads JSON and what else the README of the cases has.
func decode(text string) interface{} {
	var value interface{}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	check(decoder.Decode(&value))
	return convert(value)
}

// convert replaces every json.Number in value by the int or float64 it is, and #struct and #map.
func convert(value interface{}) interface{} {
	switch value := value.(type) {
	case map[string]interface{}:
		for key, element := range value {
			value[key] = convert(element)
		}
		if fields, found := value["#struct"].(map[string]interface{}); found {
			return Recipe{fields["Version"].(string), fields["Data"]}
		}
		if pairs, found := value["#map"].([]interface{}); found {
			mixed := map[interface{}]interface{}{} // as yaml.v2 makes it
			for _, pair := range pairs {
				mixed[pair.([]interface{})[0]] = pair.([]interface{})[1]
			}
			return mixed
		}
	case []interface{}:
		exact := make([]interface{}, len(value)) // no more room in it, which slice would show
		for i, element := range value {
			exact[i] = convert(element)
		}
		return exact
	case json.Number:
		if number, err := value.Int64(); err == nil {
			return int(number)
		}
		number, err := value.Float64()
		check(err)
		return number
	}
	return value
}

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(what string) {
	fmt.Fprintln(os.Stderr, "oracle:", what)
	os.Exit(1)
}
