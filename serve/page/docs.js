// Starts Swagger UI on /docs; a file of its own because the page allows no inline script.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true });
